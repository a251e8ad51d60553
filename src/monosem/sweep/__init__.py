"""Many SAEs over one pass of the store: axes -> members -> training side by side -> one table and one plot."""
