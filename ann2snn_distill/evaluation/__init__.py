"""What a network is worth: accuracy, activity, alignment."""
