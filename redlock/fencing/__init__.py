"""Resources that check the fencing token: a holder that was frozen past its lease changes nothing."""
