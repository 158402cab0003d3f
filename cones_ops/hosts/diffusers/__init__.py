"""diffusers pipelines as a host: search a UNet, apply masks to it, sample."""
