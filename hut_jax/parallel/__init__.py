"""A mesh of devices and several processes: what lies where. Imports core alone."""
