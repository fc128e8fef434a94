"""The dialplan, written from the configuration for each flavour of PBX."""
