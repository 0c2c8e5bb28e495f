"""The field's published curves made again, by commands, with intervals over seeds."""
