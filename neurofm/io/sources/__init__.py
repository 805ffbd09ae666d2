"""Time courses of brain parcels estimated from sensors."""
