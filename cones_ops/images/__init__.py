"""Pictures before they are encoded: collages."""
