"""To look into caches: what they hold, where two differ, a page of pictures, sharpness and calibration."""
