"""The public client behind `mqcore.open`."""
