"""Everything that calls or is called: one interface (`transport`), few wires."""
