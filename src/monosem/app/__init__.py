"""What a user looks at when a command ends. Reads finished files of a run; makes nothing."""
