"""What a serving system is asked to do: arrivals, lengths, and readers of public traces."""
