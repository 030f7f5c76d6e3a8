"""What is measured alike for every interpreter: planted features, reliability, scores, enrichment."""
