"""What each verb of the command line takes: frozen dataclasses that tyro reads, field texts being the help."""
