"""What happens over time: the engine that moves an account from instant to instant, and the position builder."""
