"""atomvision_assets."""
