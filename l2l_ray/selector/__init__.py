"""Who decides which pseudo-labels to believe: RPLE, the reinforced selector, and the rules it is measured against."""
