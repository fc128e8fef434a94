"""systemd's units of the daemon."""
