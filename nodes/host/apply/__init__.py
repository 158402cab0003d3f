"""Put concept masks on a MODEL."""
