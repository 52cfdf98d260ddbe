"""The site file: from TOML text to frozen data, and the difference between two of them. Pure: no I/O but where a name says load."""
