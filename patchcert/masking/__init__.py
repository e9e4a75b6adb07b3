"""Double masking: the answer that stays when any two places are left out."""
