"""What there is to predict, and bytes → pixels."""
