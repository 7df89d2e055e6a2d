// Before anything is drawn, set the reader's choice of light or dark, or else the system's.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("gridflow-theme"); } catch { /* a browser may keep nothing for a file */ }
  const system = matchMedia("(prefers-color-scheme: dark)");
  const set = (theme) => { document.documentElement.dataset.theme = theme; };
  set(chosen || (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => { if (!chosen) set(system.matches ? "dark" : "light"); });
  window.toggleTheme = () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    set(chosen);
    try { localStorage.setItem("gridflow-theme", chosen); } catch { /* as above */ }
    return chosen;
  };
})();
