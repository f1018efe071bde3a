"""The acceptance kit: probes that show what works on a machine, and the report of `passl check`."""
