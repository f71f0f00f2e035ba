"""What each engine is told, and how its logs read. One file per engine. Pure."""
