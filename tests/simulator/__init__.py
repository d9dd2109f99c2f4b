"""The simulator: real engines on invented time, on unreliable hosts, judged after every event."""
