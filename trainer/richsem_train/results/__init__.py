"""What a detector gives: detections, scores, pictures and plots of them."""
