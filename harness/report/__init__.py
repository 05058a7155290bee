"""What people read: tables from records, and the text of a plan."""
