"""What this machine has for building and running engines, and what is wrong with it."""
