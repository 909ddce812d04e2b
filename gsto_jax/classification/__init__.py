"""Classification of whole images: training, evaluation as top-1 and top-5, results."""
