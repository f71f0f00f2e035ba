"""What `ls` and `show` tell of each snapshot."""
