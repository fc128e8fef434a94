"""What holds on every switch, on the very files of dialplan_examples."""
