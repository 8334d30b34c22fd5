/** English and Korean: the reader's language at first, then what was chosen. */
import { en } from "./i18n/en";
import { ko } from "./i18n/ko";
import { Store } from "./store";

export type Message = keyof typeof en;
export type Catalogue = Record<Message, string>;
export const CATALOGUES = { en, ko } satisfies Record<string, Catalogue>;
export type Language = keyof typeof CATALOGUES;
export const LANGUAGES: Record<Language, string> = { en: "English", ko: "한국어" };

const KEY = "lakehouse.language";
export const language = new Store<Language>("en");

/** The first language that somebody wants and that there is. */
export function wanted(languages: readonly string[]): Language {
  for (const tag of languages) {
    const found = (Object.keys(CATALOGUES) as Language[]).find((one) => tag.toLowerCase().split("-")[0] === one);
    if (found) return found;
  }
  return "en";
}

export function chooseLanguage(chosen: Language): void {
  localStorage.setItem(KEY, chosen);
  speak(chosen);
}

export function restoreLanguage(): void {
  const chosen = localStorage.getItem(KEY);
  speak(chosen !== null && chosen in CATALOGUES ? (chosen as Language) : wanted(navigator.languages));
}

function speak(chosen: Language): void {
  document.documentElement.lang = chosen;
  language.set(chosen);
}

/** A message in the language of the reader; `{name}` is filled in. */
export function t(message: Message, values: Record<string, string | number> = {}): string {
  return fill(CATALOGUES[language.get()][message], values);
}

/** A message of the API's own words, such as a kind of event, where there is one for it. */
export function word(prefix: string, value: string): string {
  const message = `${prefix}.${value}`;
  return message in en ? t(message as Message) : value;
}

export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole));
}
