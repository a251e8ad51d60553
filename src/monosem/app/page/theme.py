"""Gradio's components in the page's own colours and fonts; no font or file is asked for elsewhere."""

from gradio.themes import Base

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
_COLOURS = {
    "body_background_fill": "paper",
    "body_text_color": "ink",
    "body_text_color_subdued": "quiet",
    "background_fill_primary": "raised",
    "background_fill_secondary": "soft",
    "block_background_fill": "paper",
    "block_border_color": "rule",
    "block_label_background_fill": "paper",
    "block_label_text_color": "quiet",
    "block_title_text_color": "quiet",
    "block_info_text_color": "quiet",
    "border_color_primary": "rule",
    "border_color_accent": "accent",
    "color_accent": "accent",
    "color_accent_soft": "soft",
    "link_text_color": "accent",
    "link_text_color_hover": "accent",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "input_background_fill": "raised",
    "input_border_color": "rule",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "quiet",
    "slider_color": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent",
    "button_primary_text_color": "on-accent",
    "button_primary_border_color": "accent",
    "button_secondary_background_fill": "raised",
    "button_secondary_background_fill_hover": "soft",
    "button_secondary_text_color": "ink",
    "button_secondary_border_color": "rule",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color_selected": "accent",
    "checkbox_border_color": "quiet",
    "checkbox_label_background_fill": "raised",
    "checkbox_label_background_fill_selected": "soft",
    "checkbox_label_border_color": "rule",
    "checkbox_label_text_color": "ink",
    "checkbox_label_text_color_selected": "ink",
}


def theme() -> Base:
    """The theme; light and dark differ in the variables of `page.css` alone."""
    made = Base(font=list(SANS), font_mono=list(MONO), radius_size="sm")
    both = {name: f"var(--ms-{colour})" for name, colour in _COLOURS.items()}
    known = {name for name in both if hasattr(made, f"{name}_dark")}
    return made.set(
        **both,
        **{f"{name}_dark": both[name] for name in known},
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_title_text_weight="400",
        block_title_text_size="0.8125rem",
        block_label_text_size="0.8125rem",
        layout_gap="1rem",
        button_border_width="1px",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="none",
        checkbox_shadow="none",
    )
