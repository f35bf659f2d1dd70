//! What is wrong in a rule file is told with its line, its rule and its cure.
