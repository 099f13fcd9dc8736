"""What an operator does to a fleet: keys, orders, rollouts. Needs no TensorFlow."""
