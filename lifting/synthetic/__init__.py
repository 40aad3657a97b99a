"""The embedded sets: scripted people, as poses and as rendered pictures with their labels."""
