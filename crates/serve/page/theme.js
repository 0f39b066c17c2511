// Light or dark, before anything is painted: the one script that is no module, so that a stored choice does not flash.
"use strict";
{
  let stored = null;
  try {
    stored = JSON.parse(localStorage.getItem("lyceum.theme"));
  } catch {
    // The system's choice, then.
  }
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
}
