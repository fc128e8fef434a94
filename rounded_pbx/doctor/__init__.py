"""Looking at everything that a call depends on, from the configuration to the trunk."""
