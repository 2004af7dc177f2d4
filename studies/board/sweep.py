from studies.sweep import sweep as sweep
