"""The mesh of devices, how arrays are split over it, and several processes. May import core."""
