"""What training reads: prepared files of poses and pictures, and batches made from them."""
