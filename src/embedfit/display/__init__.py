"""What people see: the terminal and pages."""
