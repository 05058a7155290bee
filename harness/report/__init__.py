"""What people read: tables and the report from records, the gate's findings, the history, and the text of a plan."""
