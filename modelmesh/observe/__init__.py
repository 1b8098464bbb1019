"""What an operator sees: logs, metrics, tasks that fail loudly, the machine's bounds."""
