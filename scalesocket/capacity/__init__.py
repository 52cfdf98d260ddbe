"""What a site counts against its limits: of addresses, of rooms that are opened."""
