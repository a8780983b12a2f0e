"""The results of a detector: detections, scores, pictures and plots of them."""
