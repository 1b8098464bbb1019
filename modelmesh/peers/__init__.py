"""Other daemons: who they are, whether they answer, and how a call gets there (door 2)."""
