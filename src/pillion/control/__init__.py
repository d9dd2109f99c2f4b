"""Programs beside the sidecars: placement and scheduler as services."""
