"""What is told of a trained model: its uncertainty, its errors on pictures, its robustness."""
