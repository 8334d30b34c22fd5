/** How the pages look and speak; kept for the next visit. */
import { chooseLanguage, language, LANGUAGES, t, type Language } from "../language";
import { useStore } from "../store";
import { chooseTheme, theme, THEMES } from "../theme";
import { Icon } from "./icon";
import { Segments, Select } from "./parts";

export function ThemeChoice() {
  const chosen = useStore(theme);
  const icons = { system: "system", light: "sun", dark: "moon" } as const;
  return (
    <Segments
      name="theme"
      label={t("app.theme")}
      value={chosen}
      choose={chooseTheme}
      of={THEMES.map((one) => ({
        value: one,
        label: (
          <span class="segment-icon" title={t(`theme.${one}`)}>
            <Icon name={icons[one]} size={15} />
            <span class="hidden">{t(`theme.${one}`)}</span>
          </span>
        ),
      }))}
    />
  );
}

export function LanguageChoice() {
  const chosen = useStore(language);
  return (
    <Select
      label={t("app.language")}
      value={chosen}
      choose={chooseLanguage}
      of={(Object.keys(LANGUAGES) as Language[]).map((one) => ({ value: one, label: LANGUAGES[one] }))}
    />
  );
}
