"""The embedded sets: people who move by script, as poses and as rendered pictures with their labels."""
