"""The site file: from TOML text to frozen data, and the difference between two sites. No I/O but in `load` and `environment`."""
