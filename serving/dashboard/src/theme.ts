/** Light or dark: as the system has it, until one is chosen. */
import { Store } from "./store";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "lakehouse.theme";
export const theme = new Store<Theme>("system");
/** Counts changes of what is seen, for what takes its colours from the style sheet: charts. */
export const painted = new Store(0);

const system = matchMedia("(prefers-color-scheme: dark)");

export function chooseTheme(chosen: Theme): void {
  if (chosen === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, chosen);
  paint(chosen);
}

export function restoreTheme(): void {
  const chosen = localStorage.getItem(KEY);
  system.addEventListener("change", () => paint(theme.get()));
  paint(THEMES.find((one) => one === chosen) ?? "system");
}

function paint(chosen: Theme): void {
  document.documentElement.dataset["theme"] = chosen === "system" ? (system.matches ? "dark" : "light") : chosen;
  theme.set(chosen);
  painted.set(painted.get() + 1);
}
